// llm
