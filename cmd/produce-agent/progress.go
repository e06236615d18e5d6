package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"github.com/produce-agent/produce-agent/internal/ship"
)

// progress is the bar on a terminal, and the writer that log lines go through
// so that bar and lines do not run into each other.
//
// Concurrency: safe.
type progress struct {
	on bool
	w  io.Writer

	mu   sync.Mutex
	bar  *progressbar.ProgressBar
	done chan struct{}
	end  sync.WaitGroup
}

// redraw is how often the bar moves.
const redraw = 200 * time.Millisecond

func newProgress(mode string, w io.Writer) *progress {
	on := mode == "always"
	if mode == "auto" {
		f, ok := w.(*os.File)
		on = ok && term.IsTerminal(int(f.Fd()))
	}
	return &progress{on: on, w: w, done: make(chan struct{})}
}

// Write prints a log line above the bar.
func (p *progress) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bar != nil {
		_ = p.bar.Clear()
	}
	return p.w.Write(b)
}

// start draws the bar for r until stop.
func (p *progress) start(r *ship.Run) {
	if !p.on {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bar = progressbar.NewOptions64(r.Total(),
		progressbar.OptionSetWriter(p.w), progressbar.OptionShowBytes(true),
		progressbar.OptionSetPredictTime(true), progressbar.OptionFullWidth(),
		progressbar.OptionThrottle(0), progressbar.OptionSetRenderBlankState(false))
	p.end.Go(func() {
		tick := time.NewTicker(redraw)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				p.draw(r)
			case <-p.done:
				return
			}
		}
	})
}

func (p *progress) draw(r *ship.Run) {
	s, _ := r.Now()
	text := fmt.Sprintf("%d delivered", s.Delivered)
	if s.Rejected > 0 {
		text += fmt.Sprintf(", %d rejected", s.Rejected)
	}
	if n := s.ErrorCodes["429"]; n > 0 {
		text += fmt.Sprintf(", %d × 429", n)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if total := r.Total(); total > 0 && p.bar.GetMax64() != total {
		p.bar.ChangeMax64(total)
	}
	p.bar.Describe(text)
	_ = p.bar.Set64(s.BytesRead)
}

// stop takes the bar away.
func (p *progress) stop() {
	if !p.on {
		return
	}
	close(p.done)
	p.end.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bar != nil {
		_ = p.bar.Clear()
		p.bar = nil
	}
}
