"""One leaderboard: the grid of models, tasks, methods and mean visual tokens measured as one command, and its page."""
