"""One thread: small models, and two cores that others use too."""

import torch

torch.set_num_threads(1)
