"""What every command line shares: flags, console and progress bar."""
