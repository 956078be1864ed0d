"""The page: a run in the browser, as one file or as a tab of TensorBoard. No torch."""
