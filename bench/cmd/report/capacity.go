package main

import (
	"rollcall/bench/raw"
)

// deadlineBytes is what the benchmark of the wheel keeps for a device itself: in rollcall the entry
// holds it.
const deadlineBytes = 8

// model is what a device, a heartbeat, a stream and a frame cost, each from one measurement.
type model struct {
	baseMiB     float64 // resident before the first client
	deviceBytes float64 // table outside the heap, and twice what is on it
	streamBytes float64 // twice the heap
	kernelBytes float64 // of a stream's connection, this end
	// CPU of the commit loop and of all that wakes up with it, however many heartbeats share a sync
	busyCores   float64
	beatMicros  float64 // CPU of one more heartbeat
	frameMicros float64 // CPU of a frame, the client's included
	half, peak  point   // what busyCores and beatMicros were fitted to
}

// point is a rate of heartbeats and the cores that the server took for it.
type point struct{ rate, cores float64 }

func (p *page) model() (c model, ok bool) {
	table, wheel := p.m.find("Table/devices=1M/by=rollcall/procs=1"), p.m.find("Wheel/devices=1M/by=rollcall/procs=1")
	fanout, stream := p.m.find("FanOut/streams=4000/users=4000/batches=1/by=rollcall"), p.m.find("IdleStream/streams=4000/by=rollcall")
	if table == nil || wheel == nil || fanout == nil || stream == nil {
		return c, false
	}
	half, peak := p.point("http-open"), p.point("http-closed")
	if half.rate == 0 || peak.rate == 0 {
		return c, false
	}
	var base []float64
	for _, r := range p.m.runs["http-open"] {
		if r.Server.By == "rollcall" {
			base = append(base, r.Server.StartMiB)
		}
	}
	onHeap := median(table.metrics["heap-B/device"])
	c = model{
		baseMiB: median(base),
		deviceBytes: median(table.metrics["B/device"]) - onHeap +
			2*(onHeap+median(wheel.metrics["B/device"])-deadlineBytes),
		streamBytes: 2 * median(stream.metrics["B/stream"]),
		kernelBytes: median(stream.metrics["kernel-B/stream"]) / 2,
		frameMicros: 1e6 * float64(p.cores()) / median(fanout.metrics["frames/s"]),
		half:        half,
		peak:        peak,
	}
	c.busyCores, c.beatMicros = fit(half, peak)
	return c, true
}

// point is the median rate and processor use of rollcall in the runs of a file.
func (p *page) point(file string) point {
	var rate, cores []float64
	for _, r := range p.m.runs[file] {
		if r.Server.By != "rollcall" {
			continue
		}
		seconds := 0.0
		for _, ph := range r.Load.Phases {
			seconds += ph.Seconds
		}
		rate = append(rate, r.Load.Answered()/seconds)
		cores = append(cores, r.Server.CPUSeconds/seconds)
	}
	if len(rate) == 0 {
		return point{}
	}
	return point{median(rate), median(cores)}
}

// fit draws a line through two points: what is busy anyway, and what each heartbeat adds. Where the
// points are too close or noise turns the line over, the cost is all the heartbeats'.
func fit(a, b point) (busyCores, beatMicros float64) {
	slope := (b.cores - a.cores) / (b.rate - a.rate)
	busy := a.cores - slope*a.rate
	if b.rate < 1.1*a.rate || slope <= 0 || busy < 0 {
		return 0, 1e6 * a.cores / a.rate
	}
	return busy, 1e6 * slope
}

func (p *page) cores() int { return p.m.heads["fanout"].Cores }

// cpu is how many cores a load takes.
func (c *model) cpu(beats, frames float64) float64 {
	return c.busyCores + (beats*c.beatMicros+frames*c.frameMicros)/1e6
}

// mib is how much memory the process takes.
func (c *model) mib(devices, streams float64) float64 {
	return c.baseMiB + (devices*c.deviceBytes+streams*c.streamBytes)/(1<<20)
}

// What the tables assume.
const (
	// share of the processors that heartbeats and frames may take, so that bursts and a restart fit
	use = 0.5
	// share of the memory that may be taken: the rest is the page cache's and the system's
	room     = 0.7
	interval = 10.0 // seconds between two heartbeats of a device
	follow   = 0.1  // streams for each device: frames per heartbeat
)

func (p *page) capacity() {
	c, ok := p.model()
	if !ok {
		return
	}
	p.f("# Capacity\n\nMade by `bench/cmd/report` from the raw files in `%s`; do not edit. The figures are of the machine that `benchmarks.md` names;\nmeasure on yours with `make bench`.\n\n", p.source)
	p.f("## What things cost\n\n| | | measured by |\n| --- | ---: | --- |\n")
	p.f("| base | %.0f MiB | resident memory of the server before the open-loop runs |\n", c.baseMiB)
	p.f("| a device | %.0f bytes | `BenchmarkTable`, `BenchmarkWheel`, 1M devices: what is outside the Go heap, and twice what is on it, since the heap may double between collections |\n", c.deviceBytes)
	p.f("| a stream, in the process | %.0f bytes | `BenchmarkIdleStream`, twice the heap |\n", c.streamBytes)
	p.f("| a stream, in the kernel | %.0f bytes | the same: half of both ends of the connection |\n", c.kernelBytes)
	p.f("| the commit loop | %.2f cores | a line through the server's processor use in the open loop (%s/s: %.2f cores) and the closed loop (%s/s: %.2f): its value at 0 |\n",
		c.busyCores, number(c.half.rate), c.half.cores, number(c.peak.rate), c.peak.cores)
	p.f("| a heartbeat | %.1f µs of a core | the same line's slope |\n", c.beatMicros)
	p.f("| a frame | %.1f µs of a core | `BenchmarkFanOut`, one frame a write: all cores over frames per second, the client's reading included |\n\n", c.frameMicros)
	p.f("Commands:\n\n```console\n")
	for _, file := range []string{"table", "wheel", "stream", "fanout", "http-open", "http-closed"} {
		p.f("%s\n", p.m.command(file))
	}
	p.f("```\n\n")
	p.formula()
	p.machines(&c)
	p.check(&c)
	p.finish("capacity.md")
}

func (p *page) formula() {
	p.f("## Formula\n\n```\n")
	p.f("cores  = the commit loop + heartbeats/s × %s + frames/s × %s          at most %.0f %% of the machine's\n", "a heartbeat", "a frame", 100*use)
	p.f("memory = base + devices × a device + streams × (a stream, in the process and in the kernel)   at most %.0f %%\n", 100*room)
	p.f("```\n\nheartbeats/s is devices over their interval; frames/s is heartbeats/s times the streams that follow the device's user.\n\nAssumptions:\n\n")
	p.f("- A server that is alone. What a node of a cluster takes besides is in [cluster.md](cluster.md#sizing).\n")
	p.f("- Costs grow in proportion to cores. It was measured on %d; nothing here shows that they do on many more.\n", p.cores())
	p.f("- The disk is not the limit: a batch is what arrived during the last sync, so a slower disk costs latency first. Its room may be: a heartbeat logs 76 bytes,\n  its source and a frame of some bytes.\n")
	p.f("- The commit loop syncs without a pause as soon as heartbeats come all the time, so that its cost does not depend on their number; a server\n  that hears from few devices takes less.\n- The line was measured with the generator on the same processors.\n")
	p.f("- Frames are not joined. Under load they are, and cost a fraction.\n- Every stream and connection needs a descriptor: raise the limit to their number.\n\n")
}

func (p *page) machines(c *model) {
	p.f("## Machines\n\nDevices that send every %.0f s, %.1f streams for each device. The smaller of the two columns counts.\n\n", interval, follow)
	p.f("| cores | memory | devices by cores | devices by memory | carries | streams with them |\n| ---: | ---: | ---: | ---: | ---: | ---: |\n")
	for _, m := range []struct{ cores, gib float64 }{{2, 4}, {4, 8}, {8, 16}, {16, 32}, {32, 64}} {
		byCPU := max(0, use*m.cores-c.busyCores) * interval / (c.cpu(1, follow) - c.busyCores)
		byMemory := (room*m.gib*1024 - c.baseMiB) * (1 << 20) / (c.deviceBytes +
			follow*(c.streamBytes+c.kernelBytes))
		carries := min(byCPU, byMemory)
		p.f("| %.0f | %.0f GiB | %s | %s | %s | %s |\n", m.cores, m.gib, round(byCPU), round(byMemory), round(carries), round(carries*follow))
	}
	p.f("\nIdle streams alone are bounded by memory: %s in a GiB.\n\n", round((1<<30)/(c.streamBytes+c.kernelBytes)))
}

// round leaves two digits: more would be a claim.
func round(v float64) string {
	unit := 1.0
	for v/unit >= 100 {
		unit *= 10
	}
	return number(float64(int(v/unit)) * unit)
}

// check puts a prediction beside a run that had no part in the model.
func (p *page) check(c *model) {
	for _, r := range p.m.runs["capacity"] {
		p.f("## Checked\n\nThe formula against a run whose figures are not in it:\n\n```console\n%s\n%s\n```\n\n", r.Server.Command, r.Head.Command)
		devices, streams, beats, frames, seconds := observed(&r)
		p.f("%s devices, %s streams, %s heartbeats/s, %s frames/s; verdict: %s.\n\n", number(devices), number(streams), number(beats), number(frames),
			verdict(r.Load.Verdict.Violations, r.Load.Verdict.Invalid))
		cpu, mib := r.Server.CPUSeconds/seconds, r.Server.EndMiB
		p.f("| | predicted | measured | measured / predicted |\n| --- | ---: | ---: | ---: |\n")
		p.f("| cores of the server | %.2f | %.2f | %.2f |\n", c.cpu(beats, frames), cpu, cpu/c.cpu(beats, frames))
		alone := beats*c.half.cores/c.half.rate + frames*c.frameMicros/1e6
		p.f("| the same, if all of the cost grew with the heartbeats | %.2f | %.2f | %.2f |\n", alone, cpu, cpu/alone)
		p.f("| resident memory of the server, MiB | %.0f | %.0f | %.2f |\n\n", c.mib(devices, streams), mib, mib/c.mib(devices, streams))
	}
}

// observed is what the checked run did.
func observed(r *raw.Run) (devices, streams, beats, frames, seconds float64) {
	for _, ph := range r.Load.Phases {
		seconds += ph.Seconds
	}
	measuredSeconds := float64(r.Load.Latency["answer"].Count) / r.Load.Achieved
	o := &r.Load.Options
	users := float64(o.Users)
	return users * float64(o.DevicesPerUser), users * o.StreamsPerUser, r.Load.Answered() / seconds,
		float64(r.Load.Latency["frame"].Count) / measuredSeconds, seconds
}
