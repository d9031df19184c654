def test_a(inner):
    r = inner('''
    @pytest.mark.rss_returns
    def test_leak():
        leak(10)
    @pytest.mark.rss_returns
    def test_retain():
        retain(10)
    @pytest.mark.rss_returns
    def test_churn():
        churn(10)
    @pytest.mark.rss_returns(tolerance="4 parsecs", foo=1)
    def test_ok(): pass
    ''', "--rssguard-report", "--rssguard-json=x.json")
