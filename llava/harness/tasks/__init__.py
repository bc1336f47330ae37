"""Where lmms-eval looks for tasks of ``LMMS_EVAL_PLUGINS=llava.harness``; there are none, since its own are used."""
