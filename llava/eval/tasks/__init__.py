"""One file a benchmark, and what they share: ``base``, ``statistics``, ``vqa_accuracy``; ``base.get_task`` finds them by name."""
