"""Pure: which samples survive, what each weighs, losses and what they are divided by. THE TABLE is here."""
