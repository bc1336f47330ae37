"""One file a benchmark; ``llava.eval.task.get_task`` finds them by name."""
