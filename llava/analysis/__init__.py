"""What a model attends to, what it needs, and what is left after reduction, on top of ``llava.eval``.

==============  =====================================================================================================
``observe``     the attention of every decoder layer, one layer and one prompt at a time; what the others are built on
``flow``        shares of attention between words, picture and system prompt, layer by layer and sample by sample
``heads``       which heads look at the picture, how often, how alike
``entropy``     how spread the attention to the picture is
``heatmap``     where on the picture it lies, four readings, with the top 1, 10, 20 and 50 % of the patches
``saliency``    |A * dL/dA|: what the answer depends on
``disruption``  attention to the picture cut at one layer or from that layer on, and what that does to the answers
``rank``        numeric and effective rank of an attention block; ``llava.experiments.rank_sweep`` sweeps over budgets
==============  =====================================================================================================
"""
