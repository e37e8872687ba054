"""One module a group of commands; a command parses, makes one call and prints what it returned."""
