"""Every setting, typed; recipes, phases, and checks of settings against each other."""
