"""The pages of the documentation as data, and the processes that they tell readers to start."""
