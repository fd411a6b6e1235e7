from .label_audit import audit as audit
from .labels import read as read, refine as refine, save as save
