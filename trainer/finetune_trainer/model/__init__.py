"""The model at hand: fetched, loaded, adapted, proved to keep packed documents apart.

Its way out, as files for others, is `finetune_trainer.export`. Nothing is imported here, so that `preflight` can look
at a model's folder without loading torch.
"""
