"""Language models of all providers behind one Protocol, `chat.Provider`."""
