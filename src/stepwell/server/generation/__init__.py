"""What every route that generates text does alike: understand, prompt, constrain, exchange, read, charge."""
