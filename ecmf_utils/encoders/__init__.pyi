from .encoder import Encoder as Encoder
from .loading import load as load
