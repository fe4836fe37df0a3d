"""What is wrong with a file of preference pairs, what its figures are, and what follows from them."""
