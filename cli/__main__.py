"""python -m onnxdam.cli"""

from .main import run

run()
