"""Making pruned checkpoints: block movement pruning with distillation, filling, and fine-tuning without masks.

The recipe is that of "Block Pruning For Faster Transformers" (Lagunas et al. 2021, arXiv 2109.04838).

from densepack_models.pruning.recipes import prune, fill, finetune
"""
