"""Pure: which samples survive, what each counts for, losses and denominators; THE TABLE."""
