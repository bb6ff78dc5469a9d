"""`stepwell demo`: three customers' crews of agents read a document on too little device KV."""
