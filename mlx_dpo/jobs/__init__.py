"""The long commands whole: each puts the rooms together, and nothing below it imports it."""
