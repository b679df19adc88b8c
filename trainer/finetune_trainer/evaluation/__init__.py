"""Whether the training was worth it: the model before and after it on the same held-out records, record by record.

`questions` draws the records and the examples that the model before training is shown; `generate`, `losses` and
`forgetting` ask the models; `metrics` score answers; `verdict`, `overfitting` and `report` say what came of it, and
know no tensors. `compare` joins them.
"""
