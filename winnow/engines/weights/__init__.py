"""How a policy's weights reach samplers in other processes, and how they prove that they did."""
