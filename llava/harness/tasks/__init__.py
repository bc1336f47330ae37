"""Where lmms-eval looks for tasks of ``LMMS_EVAL_PLUGINS=llava.harness``; there are none, its own are asked."""
