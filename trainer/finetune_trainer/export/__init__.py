"""The trained model as files that plain transformers and peft load, published whole or not at all."""
