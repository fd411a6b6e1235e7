from .loading import Encoder as Encoder, load as load
