"""The Python interface: the functions of `import mlx_dpo`."""
