"""`finetune doctor`: what of an installation, and of a tenant's namespace, is there and works."""
