"""The model at hand: fetched, loaded, adapted, proved to keep packed documents apart.

Its way out, as files for others, is `finetune_trainer.export`. Nothing of it is imported here, so that `preflight` can
look at a model's folder without loading torch.
"""

import logging

# peft imports bitsandbytes where that is installed, which then advises users of new CPUs, in each process of any job.
logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(lambda record: "kernels-community" not in str(record.msg))
