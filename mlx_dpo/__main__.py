"""python -m mlx_dpo"""

from .cli import main

main()
