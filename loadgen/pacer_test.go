package loadgen

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"rollcall/internal/testseed"
)

const second = int64(time.Second)

func all(p *pacer) (dues []int64) {
	for {
		due, ok := p.next()
		if !ok {
			return dues
		}
		dues = append(dues, due)
	}
}

func TestConstantPacingIsExact(t *testing.T) {
	dues := all(newPacer([]segment{{second, 3 * second, 4}}, 0, nil))
	want := []int64{1000, 1250, 1500, 1750, 2000, 2250, 2500, 2750}
	for i := range want {
		want[i] *= 1e6
	}
	if !slices.Equal(dues, want) {
		t.Errorf("%v", dues)
	}
}

// TestPacingDoesNotDrift: after a day at an awkward rate the last event is where it belongs, to the
// nanosecond's rounding.
func TestPacingDoesNotDrift(t *testing.T) {
	const rate, length = 1234.567, 24 * 3600
	p := newPacer([]segment{{0, length * second, rate}}, 0, nil)
	n, last := 0, int64(0)
	for {
		due, ok := p.next()
		if !ok {
			break
		}
		if due < last {
			t.Fatalf("event %d at %d, after %d", n, due, last)
		}
		n, last = n+1, due
	}
	if want := int(math.Ceil(rate * length)); n != want {
		t.Errorf("%d events, want %d", n, want)
	}
	if want := float64(n-1) / rate * 1e9; math.Abs(float64(last)-want) > 10e3 {
		t.Errorf("the last event is %v off", time.Duration(float64(last)-want))
	}
}

// TestChangeOfRate: no event is lost or doubled where the rate changes, even in the middle of a
// gap, and a pause is one.
func TestChangeOfRate(t *testing.T) {
	dues := all(newPacer([]segment{{0, second, 2.5}, {second, 2 * second, 0},
		{2 * second, 3 * second, 10}}, 0, nil))
	// 2.5 events fit into the first segment: the third begins at 0.8 s, the fourth is half a gap
	// into the last segment.
	want := []float64{0, 0.4, 0.8, 2.05, 2.15, 2.25, 2.35, 2.45, 2.55, 2.65, 2.75, 2.85, 2.95}
	if len(dues) != len(want) {
		t.Fatalf("%v", dues)
	}
	for i, w := range want {
		if math.Abs(float64(dues[i])/1e9-w) > 1e-6 {
			t.Errorf("event %d at %v, want %v s", i, time.Duration(dues[i]), w)
		}
	}
}

// TestWorkersInterleave: four workers with a quarter of the rate each are together one even
// schedule.
func TestWorkersInterleave(t *testing.T) {
	const workers = 4
	var dues []int64
	for i := range workers {
		dues = append(dues, all(newPacer([]segment{{0, 10 * second, 100.0 / workers}},
			float64(i)/workers, nil))...)
	}
	slices.Sort(dues)
	if len(dues) != 1000 {
		t.Fatalf("%d events", len(dues))
	}
	for i, due := range dues {
		if want := int64(i) * second / 100; due-want > 1 || want-due > 1 {
			t.Fatalf("event %d at %d, want %d", i, due, want)
		}
	}
}

// TestPoissonPacing checks the two things that make a Poisson process: gaps with the mean and the
// spread of exponential ones, and counts per second whose variance is their mean.
func TestPoissonPacing(t *testing.T) {
	seed := testseed.Of(t)
	const rate, length = 200.0, 500
	dues := all(newPacer([]segment{{0, length * second, rate}}, 0, rand.New(rand.NewPCG(seed, 1))))
	counts := make([]float64, length)
	var gaps []float64
	for i, due := range dues {
		counts[due/second]++
		if i > 0 {
			gaps = append(gaps, float64(due-dues[i-1])/1e9)
		}
	}
	mean, variance := moments(gaps)
	if math.Abs(mean*rate-1) > 0.02 || math.Abs(variance*rate*rate-1) > 0.06 {
		t.Errorf("gaps: mean %v of %v, variance %v", mean, 1/rate, variance)
	}
	mean, variance = moments(counts)
	if math.Abs(mean/rate-1) > 0.02 || variance/mean < 0.7 || variance/mean > 1.35 {
		t.Errorf("counts: mean %v, variance %v", mean, variance)
	}
}

func moments(x []float64) (mean, variance float64) {
	for _, v := range x {
		mean += v / float64(len(x))
	}
	for _, v := range x {
		variance += (v - mean) * (v - mean) / float64(len(x))
	}
	return mean, variance
}

// TestAliasDrawsByWeight compares frequencies with weights, Zipf's.
func TestAliasDrawsByWeight(t *testing.T) {
	rng := testseed.Rand(t)
	weights := zipfWeights(50, 1.1)
	a := newAlias(weights)
	const draws = 500_000
	got := make([]float64, len(weights))
	for range draws {
		got[a.draw(rng)]++
	}
	sum := 0.0
	for _, w := range weights {
		sum += w
	}
	for i, w := range weights {
		want := w / sum * draws
		if math.Abs(got[i]-want) > 6*math.Sqrt(want) {
			t.Errorf("index %d: %v draws, want about %.0f", i, got[i], want)
		}
	}
}

func TestAllot(t *testing.T) {
	for _, c := range []struct {
		total   int
		weights []float64
		want    []int
	}{
		{4, []float64{1, 1, 1, 1}, []int{1, 1, 1, 1}},
		{2, []float64{1, 1, 1, 1}, []int{0, 1, 0, 1}},
		{6, []float64{3, 2, 1}, []int{3, 2, 1}},
		{0, []float64{1, 1}, []int{0, 0}},
	} {
		got := allot(c.total, c.weights)
		sum := 0
		for _, n := range got {
			sum += n
		}
		if sum != c.total || len(c.want) != len(got) || c.total != 2 && !slices.Equal(got, c.want) {
			t.Errorf("allot(%d, %v) = %v, want %v", c.total, c.weights, got, c.want)
		}
	}
}

// TestPlans: phases of every scenario follow each other without a gap and have the length that was
// asked for.
func TestPlans(t *testing.T) {
	names, _ := Scenarios()
	for _, name := range names {
		o, err := Options{Target: "http://127.0.0.1:1,http://127.0.0.1:2", IngestToken: "x", Scenario: name,
			Duration: time.Minute,
			StreamToken: func(string, time.Duration) (string, error) {
				return "", nil
			}}.withDefaults()
		if err != nil {
			t.Fatal(err)
		}
		plan := findScenario(name).plan(&o)
		at := int64(0)
		for _, p := range plan {
			if p.start != at {
				t.Errorf("%s: %s begins at %d, want %d", name, p.name, p.start, at)
			}
			at = p.end
		}
		load := time.Duration(plan[len(plan)-1].start)
		if want := o.Warmup + o.Duration; load > want || load < want-time.Millisecond {
			t.Errorf("%s: the load lasts %v, want %v", name, load, want)
		}
	}
}

// TestFifo compares the ring with a slice.
func TestFifo(t *testing.T) {
	rng := testseed.Rand(t)
	var f fifo[int]
	var model []int
	for i := range 10_000 {
		switch rng.IntN(5) {
		case 0, 1:
			f.push(i)
			model = append(model, i)
		case 2:
			f.unshift(i)
			model = append([]int{i}, model...)
		default:
			if len(model) > 0 {
				if *f.front() != model[0] || *f.at(len(model) - 1) != model[len(model)-1] ||
					f.pop() != model[0] {
					t.Fatal("differs from the model")
				}
				model = model[1:]
			}
		}
		if f.len() != len(model) {
			t.Fatal("length differs from the model")
		}
	}
}
