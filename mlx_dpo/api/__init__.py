"""The Python interface: what `import mlx_dpo` hands out."""
