"""One-shot pruning by second-order statistics: what can go at the least cost, and the best weights of what stays.

Optimal Brain Surgeon for whole heads and FFN units, with the curvature of a projection's weights as a Kronecker product
of the covariance of its inputs and that of its output's gradients (K-FAC). After ZipLM (arXiv 2302.04089) and the LLM
Surgeon (arXiv 2312.17244).

    statistics    what is measured on a few hundred questions, once
    removal       the order in which the inputs of one projection go, and what each level costs
    budgets       what can be asked for: a share of the weights or operations, or the time of a session
    levels        how much of which projection goes under a budget
    cut           the weights that fit best for what stays, as a packed module
    calibration   measuring, kept in a folder
    recovery      cutting and training in turn
    recipe        all of it: from checkpoint to checkpoints
"""
