"""Numbers that other implementations gave, with the scripts that made them."""
