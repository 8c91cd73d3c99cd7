"""Two processes that train one model, on this machine.

    keras-dp-retrieval launch --processes 2 -- \\
        python -m keras_dp_retrieval.examples.two_processes

On two hosts it is the same program, started once on each (README, "From a
laptop to several hosts"). Every process makes the same data set, reads its own
share of every batch, and holds the same weights after each step; process 0
prints and writes. The interactions are made up.

Prints how much of the work each process did, metrics of the whole catalogue
and a list, and writes `two_processes.keras`, which one process can load.
Processes that share a CPU show that this works, and nothing about speed.
"""

import keras

import keras_dp_retrieval as kdr


def main() -> None:
    # First of all: JAX must know the others before it starts its devices.
    process = kdr.initialize_processes()
    print(process)  # The launcher says who wrote a line.
    kdr.data_parallel()  # Of the devices of all processes.

    data = kdr.RetrievalDataset.from_synthetic(
        1_000, 500, 30_000, split="by_time"
    )
    model = kdr.TwoTowerRetrieval.for_dataset(data, 32)
    model.compile(optimizer=keras.optimizers.Adam(0.01))
    throughput = kdr.DistributionAwareCallback()
    model.fit(
        data.train,
        validation_data=data.validation,
        epochs=3,
        # Each process ranks the catalogue for its share of the users.
        verbose=2 if process.index == 0 else 0,
        callbacks=[throughput, kdr.RetrievalMetrics(data, ks=(10,))],
    )
    metrics = kdr.evaluate(model, data, ks=(10,))  # All must call it.
    ids, _ = model.recommend(data.user_vocabulary.ids[:1], k=5)

    # All must call `save`, too: process 0 writes.
    model.save("two_processes.keras")
    if process.index == 0:
        for part in throughput.history[-1]["processes"]:
            print(f"Process {part['process']}: {part['examples']:,} examples")
        for name, value in metrics.items():
            print(f"{name:28} {value:8.3f}")
        print("A list:", ids[0].tolist())


if __name__ == "__main__":
    main()
