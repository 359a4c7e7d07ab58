"""The paper's mathematics on feature matrices, on torch alone: the printed formula and its fast, exact row form."""
