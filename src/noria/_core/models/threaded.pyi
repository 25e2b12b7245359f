from noria._core.contract import Model

class Threaded(Model):
    def __init__(self) -> None: ...
