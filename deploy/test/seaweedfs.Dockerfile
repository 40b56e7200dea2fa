# Stands in for chrislusf/seaweedfs where no registry answers: the program of the same version, which scripts/test-seaweedfs.sh gets.
# For scripts/compose-test.sh only.
FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends wget && rm -rf /var/lib/apt/lists/* && mkdir /data
COPY weed /usr/bin/weed
VOLUME /data
ENTRYPOINT ["/usr/bin/weed"]
