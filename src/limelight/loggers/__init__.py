"""Maps and checks of a model in training, written to Lightning, TensorBoard, Weights & Biases or MLflow."""

from .lightning import lightning_callback as lightning_callback
from .watch import Seen as Seen, Watch as Watch, Writer as Writer
from .writers import MLflow as MLflow, TensorBoard as TensorBoard, WeightsAndBiases as WeightsAndBiases
