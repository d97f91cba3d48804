"""What the command line can do besides running; one file a command, each gives lines to print."""
