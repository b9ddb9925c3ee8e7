# One image for worker, server and Flower; docker-compose.yml has the command of each.
FROM python:3.12-slim
RUN useradd --create-home --uid 1000 umbel
WORKDIR /app
COPY --chown=umbel . /src
RUN pip install --no-cache-dir "/src[server,flower]" && cp -r /src/examples /app/examples && rm -rf /src
USER umbel
ENV PYTHONUNBUFFERED=1
ENTRYPOINT ["umbel"]
CMD ["--help"]
