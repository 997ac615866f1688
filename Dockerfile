# The service on a CPU. For CUDA: docker build --build-arg EXTRA=gpu --build-arg TORCH=torch .
FROM python:3.11-slim AS build
ARG EXTRA=cpu
# The CPU wheel of torch; the plain name takes the CUDA build.
ARG TORCH="torch --index-url https://download.pytorch.org/whl/cpu"
WORKDIR /build
RUN python -m venv /venv
ENV PATH=/venv/bin:$PATH
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY kernels kernels
COPY retriever retriever
COPY indexing indexing
COPY training training
COPY server server
RUN pip install --no-cache-dir -c constraints.txt ${TORCH} \
 && pip install --no-cache-dir -c constraints.txt ".[${EXTRA}]"

FROM python:3.11-slim
RUN useradd --create-home --uid 10001 retriever
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH \
    RETRIEVER_HOME=/models \
    NUMBA_CACHE_DIR=/tmp/numba \
    TOKENIZERS_PARALLELISM=false
RUN mkdir /models /index && chown retriever /models /index
USER retriever
EXPOSE 8080
ENTRYPOINT ["retriever"]
CMD ["serve", "/index"]
