"""One file per benchmark, and what they share: ``base``, ``statistics``, ``vqa_accuracy``; see ``base.get_task``."""
