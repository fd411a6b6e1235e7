from .startup import Note as Note, device as device, start as start
