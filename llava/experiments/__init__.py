"""The documents' experiments: plans on a grid of layers, answered by the one harness, as documented JSON and a figure.

``catalogue`` holds the experiments over layers as data, ``layers`` runs them; ``single`` is one plan alone, ``himap_cutoff``
and ``rank_sweep`` are sweeps over a cut-off and over budgets, ``precision`` compares number formats, ``evaluate_merger``
trained mergers. What they share: ``settings`` what an experiment is told, ``command`` its flags, ``sweep`` the runs and their
controls, ``tables`` the JSON, ``figure`` the curves. A script in ``scripts/`` gives one of them its documented name.
"""
