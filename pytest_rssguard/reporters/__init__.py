"""Records to text: each reporter takes data and returns text; who calls it owns the file."""
