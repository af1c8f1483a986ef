"""Groups of samples: sampled, scored, selected, given advantages, stored."""
