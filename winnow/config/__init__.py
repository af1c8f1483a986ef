"""Every setting, typed; recipes, and what no run should begin with."""
