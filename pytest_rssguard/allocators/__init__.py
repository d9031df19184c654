"""What the allocators of this process can tell, each in its own module."""
