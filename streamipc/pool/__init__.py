"""Worker pools: child processes that are there when they are asked, in every process that asks."""
